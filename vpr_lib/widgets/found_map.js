for(const svg of document.querySelectorAll('.map>svg')){const world=svg.querySelector('.world'),bar=svg.querySelector('.bar'),
label=svg.querySelector('.metres'),unit=+svg.dataset.metres;let k=1,x=0,y=0,from=null;
const nice=m=>{const p=10**Math.floor(Math.log10(m));return p*[5,2,1].find(n=>n*p<=m)};
const draw=()=>{world.setAttribute('transform',`translate(${x} ${y}) scale(${k})`);const m=nice(190*unit/k);
bar.setAttribute('d',`M${+bar.dataset.x} ${+bar.dataset.y}h${m*k/unit}`);label.textContent=m>=1000?m/1000+' km':m+' m'};
const at=e=>{const p=new DOMPoint(e.clientX,e.clientY).matrixTransform(svg.getScreenCTM().inverse());return [p.x,p.y]};
svg.addEventListener('wheel',e=>{e.preventDefault();const [a,b]=at(e),f=Math.min(400/k,Math.max(1/k,1.2**(-Math.sign(e.deltaY))));
x=a-(a-x)*f;y=b-(b-y)*f;k*=f;if(k<=1.001){k=1;x=y=0}draw()},{passive:false});
svg.addEventListener('pointerdown',e=>{from=[at(e),x,y]});
svg.addEventListener('pointermove',e=>{if(from&&e.buttons){const [a,b]=at(e);x=from[1]+a-from[0][0];y=from[2]+b-from[0][1];draw()}});
svg.addEventListener('dblclick',()=>{k=1;x=y=0;draw()})}
